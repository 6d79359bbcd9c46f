"""What a run will take: pure functions from a recipe's figures to hours, bytes and spread.

    gpus.py           peaks, memory and links of GPUs                       gpus.csv
    models.py         shapes and parameters of models, from their config    models.csv
    flops.py          FLOPs of a token: trained, prefilled, decoded
    memory.py         bytes on one GPU, and whether they fit
    efficiency.py     share of the peak that is reached, with its spread    evidence.csv
    training.py       GPU-hours to train, for one machine or 100,000
    generation.py     GPU-hours to write text: a teacher's answers, an evaluation
    interruptions.py  what losing the machine now and then costs
    overheads.py      checkpoints, downloads, boot
    plausible.py      figures that cannot be true

Nothing here looks at a clock, a file of the user or the network. Quantities that are not known are
`None`. docs/estimates.md says where every figure comes from and how far it can be trusted.
"""
