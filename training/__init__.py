"""Training: from a pretrained Transformer and judged queries to a bundle.

Each stage is `python -m training.<stage> --recipe FILE --data DIR --run DIR`; it reads and writes files in
the run folder: prepare, augment, teacher, distil, prune, quantise, then (with the engine) rank, calibrate,
export. `evaluate` measures a finished bundle, `robustness` the same under typos, missing fields and stuffing,
`ablation` what each kind of augmentation is worth, and `compression` what smaller models cost and keep.
"""
