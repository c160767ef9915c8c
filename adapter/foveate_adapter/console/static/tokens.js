// The token map, drawn over the image.

export const FATES = ["kept", "merged", "word", "packaged", "dropped"];

const SIDE = 336; // of the longer side, in pixels

/** Draw the picture as the model sees it, stretched to its format, and over it the patches' fates. */
export function drawMap(canvas, picture, { rows, columns, tokens, fates }) {
  const cell = Math.floor(SIDE / Math.max(rows, columns));
  canvas.width = cell * columns;
  canvas.height = cell * rows;
  const paint = canvas.getContext("2d");
  paint.drawImage(picture, 0, 0, canvas.width, canvas.height);
  fates.forEach((fate, patch) => {
    const x = cell * (patch % columns);
    const y = cell * Math.floor(patch / columns);
    PAINT[fate](paint, x, y, cell, tokens[patch]);
  });
}

const PAINT = {
  kept(paint, x, y, cell) {
    paint.strokeStyle = "#ffd84d";
    paint.strokeRect(x + 1, y + 1, cell - 2, cell - 2);
  },
  merged: group,
  word: group,
  packaged(paint, x, y, cell) {
    veil(paint, x, y, cell, "rgb(20 24 32 / 72%)");
    line(paint, "rgb(255 255 255 / 22%)", [x, y + cell, x + cell, y]);
  },
  dropped(paint, x, y, cell) {
    veil(paint, x, y, cell, "rgb(20 24 32 / 92%)");
    line(paint, "rgb(255 110 110 / 45%)", [x, y, x + cell, y + cell]);
    line(paint, "rgb(255 110 110 / 45%)", [x, y + cell, x + cell, y]);
  },
};

/** Patches of one token in one colour; neighbours in number get colours far apart. */
function group(paint, x, y, cell, token) {
  veil(paint, x, y, cell, `hsl(${(token * 137.5) % 360} 85% 55% / 45%)`);
}

function veil(paint, x, y, cell, colour) {
  paint.fillStyle = colour;
  paint.fillRect(x, y, cell, cell);
}

function line(paint, colour, [x0, y0, x1, y1]) {
  paint.strokeStyle = colour;
  paint.beginPath();
  paint.moveTo(x0, y0);
  paint.lineTo(x1, y1);
  paint.stroke();
}
