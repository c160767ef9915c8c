#!/usr/bin/env bash
# Build the image "cpu" and serve from it: read-only root, user 1000, a model process killed.
# Needs root, buildah and debootstrap; no registry, no daemon. Arguments go to "buildah bud", such as
#   -v /etc/ssl/certs/ca-certificates.crt:/run/ca.crt:ro --build-arg PIP_CERT=/run/ca.crt
set -euo pipefail
cd "$(dirname "$0")/.."
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
base=localhost/foveate-debian:bookworm image=localhost/foveate:cpu port=${PORT:-18100}
scratch=$(mktemp -d)

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    debootstrap --variant=minbase bookworm "$scratch/debian" http://deb.debian.org/debian
    container=$(buildah from scratch)
    buildah add -q "$container" "$scratch/debian" /
    buildah commit -q --rm "$container" "$base"
fi
# Only this format knows health checks.
buildah bud --pull-never --format docker --target cpu -t "$image" --build-arg DEBIAN="$base" "$@" .

container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
mkdir "$scratch"/{root,state,run}
chown 1000:1000 "$scratch"/{state,run}

# inside COMMAND...: run it as the image would, in mounts of its own.
inside() {
    # shellcheck disable=SC2016 # these are the inner shell's variables
    unshare --mount bash -euc '
        image=$1 scratch=$2; shift 2
        root=$scratch/root
        mount --bind "$image" "$root"
        mount -o remount,ro,bind "$root"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        mount --bind "$scratch/state" "$root/var/lib/foveate"
        mount --bind "$scratch/run" "$root/run/foveate"
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        exec chroot --userspec=1000:1000 "$root" env -i PATH=/opt/foveate/bin:/usr/bin:/bin \
            HOME=/var/lib/foveate FOVEATE_STATE_DIR=/var/lib/foveate FOVEATE_RUN_DIR=/run/foveate "$@"
    ' bash "$root" "$scratch" "$@"
}

inside tini -- foveate serve --repository=/models --http-port="$port" --grpc-port=$((port + 1)) \
    --metrics-port=$((port + 2)) --adapter-port=$((port + 3)) >"$scratch/log" 2>&1 &
server=$!
finish() {
    # The child of the subshell: tini, after all that was executed in its place.
    pkill -P "$server" && wait "$server" && echo "ended in order"
    buildah rm "$container" >/dev/null
    rm -rf "$scratch"
}
trap finish EXIT

health() { inside foveate health --repository=/models --url="http://127.0.0.1:$port"; }
until grep -q '^ready' "$scratch/log"; do
    kill -0 "$server" || { cat "$scratch/log"; exit 1; }
    sleep 1
done
health && echo "healthy"
for process in $(pgrep -f 'triton_python_backend_stub /models/digits/1/'); do
    [ "$(readlink "/proc/$process/root")" = "$scratch/root" ] && kill -9 "$process"
done
health || echo "a dead model process is noticed; Triton says of its health: $(
    inside python -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$port/v2/health/ready').status)"
)"
until health 2>/dev/null; do sleep 1; done
echo "healthy again"
