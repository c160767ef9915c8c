"""Structured pruning: a model with fewer neurons, heads and channels as a weight variant.

SNP, Structured Neuron-level Pruning (arXiv 2404.11630), with the closed-form compensation of CORP
(arXiv 2602.05243) in place of its 300 epochs of training. In the order in which it happens:

``criteria``       which neurons matter: pure functions of tensors
``ranking``        those functions, applied to every block of a model on calibration images
``search``         sizes of every block that cost a share of the multiply-accumulates and lose least
``cut``            removal of indices, consistently through everything connected
``fit``            least squares: the remaining weights compensate for the removed ones
``distill``        optional training against the dense model
``slim``           all of it but the training, as ``foveate compress`` runs it

``counts`` is arithmetic of sizes alone.
"""
