"""The networks' layer tables, written down from the papers: a row a layer, (side of its output, c_in, c_out, kernel,
groups).
"""


def fc(c_in: int, c_out: int) -> tuple[int, int, int, int, int]:
    return 1, c_in, c_out, 1, 1


def lenet_table(in_channels: int):
    return [(28, in_channels, 6, 5, 1), (10, 6, 16, 5, 1)], [fc(400, 120), fc(120, 84), fc(84, 10)]


def subsampling(channels: int) -> tuple[int, int, int, int, int]:
    return 0, 1, channels, 1, 1  # a coefficient and a bias a map, no convolution


def lenet5_table(in_channels: int):
    # C3's maps see 3, 4 or 6 of S2's; the radial basis functions have nothing to train
    partial = [(10, 6 * 3, 6, 5, 6), (10, 9 * 4, 9, 5, 9), (10, 6, 1, 5, 1)]
    rest = [subsampling(6), subsampling(16), fc(400, 120), fc(120, 84)]
    return [(28, in_channels, 6, 5, 1), *partial], rest


def alexnet_table(paper: bool, towers: int = 2):
    one, two, three = (55, 27, 13) if paper else (32, 15, 7)
    # in one tower: the printed layers of torchvision's alexnet
    c1, c2, c3, c4, c5 = (96, 256, 384, 384, 256) if towers == 2 else (64, 192, 384, 256, 256)
    convolutions = [
        (one, 3, c1, 11 if paper else 5, 1),
        (two, c1, c2, 5, towers),
        (three, c2, c3, 3, 1),
        (three, c3, c4, 3, towers),
        (three, c4, c5, 3, towers),
    ]
    head = [(9216, 4096), (4096, 4096), (4096, 1000)] if paper else [(2304, 1024), (1024, 1024), (1024, 10)]
    return convolutions, [fc(*layer) for layer in head]


def zfnet_table(paper: bool):
    one, two, three = (110, 26, 13) if paper else (32, 16, 8)
    convolutions = [
        (one, 3, 96, 7 if paper else 3, 1),
        (two, 96, 256, 5, 1),
        (three, 256, 384, 3, 1),
        (three, 384, 384, 3, 1),
        (three, 384, 256, 3, 1),
    ]
    head = [(9216, 4096), (4096, 4096), (4096, 1000)] if paper else [(4096, 1024), (1024, 1024), (1024, 10)]
    return convolutions, [fc(*layer) for layer in head]


def nin_table(paper: bool):
    # side, kernel, c_in, then the three convolutions' channels
    blocks = (
        [
            (54, 11, 3, 96, 96, 96),
            (27, 5, 96, 256, 256, 256),
            (13, 3, 256, 384, 384, 384),
            (6, 3, 384, 1024, 1024, 1000),
        ]
        if paper
        else [(32, 5, 3, 192, 160, 96), (16, 5, 96, 192, 192, 192), (8, 3, 192, 192, 192, 10)]
    )
    rows = []
    for side, kernel, c_in, width, mlp1, mlp2 in blocks:
        rows += [(side, c_in, width, kernel, 1), (side, width, mlp1, 1, 1), (side, mlp1, mlp2, 1, 1)]
    return rows[:-1], rows[-1:]


def vgg_table(depth: int, paper: bool):
    repeats = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    rows, c = [], 3
    for block, (repeat, width) in enumerate(zip(repeats, (64, 128, 256, 512, 512), strict=True)):
        for _ in range(repeat):
            rows.append(((224 if paper else 32) >> block, c, width, 3, 1))
            c = width
    head = [(25088, 4096), (4096, 4096), (4096, 1000)] if paper else [(512, 512), (512, 512), (512, 10)]
    return rows, [fc(*layer) for layer in head]


# table 1 of the GoogLeNet paper: input channels, #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj, ops in millions
INCEPTION = {
    "3a": (192, 64, 96, 128, 16, 32, 32, 128),
    "3b": (256, 128, 128, 192, 32, 96, 64, 304),
    "4a": (480, 192, 96, 208, 16, 48, 64, 73),
    "4b": (512, 160, 112, 224, 24, 64, 64, 88),
    "4c": (512, 128, 128, 256, 24, 64, 64, 100),
    "4d": (512, 112, 144, 288, 32, 64, 64, 119),
    "4e": (528, 256, 160, 320, 32, 128, 128, 170),
    "5a": (832, 256, 160, 320, 32, 128, 128, 54),
    "5b": (832, 384, 192, 384, 48, 128, 128, 71),
}


def inception_rows(name: str, side: int, kernel5: int):
    c_in, c1, r3, c3, r5, c5, proj, _ = INCEPTION[name]
    pointwise = [(side, c_in, c_out, 1, 1) for c_out in (c1, r3, r5, proj)]
    return [*pointwise, (side, r3, c3, 3, 1), (side, r5, c5, kernel5, 1)]


def stem_rows(paper: bool):
    stem, second = (112, 56) if paper else (32, 16)
    return [(stem, 3, 64, 7 if paper else 3, 1), (second, 64, 64, 1, 1), (second, 64, 192, 3, 1)]


def googlenet_table(paper: bool, kernel5: int = 5):
    sides = (28, 14, 7) if paper else (16, 8, 4)
    rows = stem_rows(paper)
    for name in INCEPTION:
        rows += inception_rows(name, sides[int(name[0]) - 3], kernel5)
    return rows, [fc(1024, 1000 if paper else 10)]


# figure 5 of the batch norm paper: input channels, then channels by column; blocks without 1×1 have stride 2
INCEPTION_V2 = {
    "3a": (192, 64, 64, 64, 64, 96, 32),
    "3b": (256, 64, 64, 96, 64, 96, 64),
    "3c": (320, 0, 128, 160, 64, 96, 0),
    "4a": (576, 224, 64, 96, 96, 128, 128),
    "4b": (576, 192, 96, 128, 96, 128, 128),
    "4c": (576, 160, 128, 160, 128, 160, 128),
    "4d": (608, 96, 128, 192, 160, 192, 128),
    "4e": (608, 0, 128, 192, 192, 256, 0),
    "5a": (1056, 352, 192, 320, 160, 224, 128),
    "5b": (1024, 352, 192, 320, 192, 224, 128),
}


def inception_v2_table(paper: bool):
    sides = (28, 14, 7) if paper else (16, 8, 4)
    rows = stem_rows(paper)
    for name, (c_in, c1, r3, c3, r33, c33, proj) in INCEPTION_V2.items():
        side = sides[int(name[0]) - 3]
        last = side if c1 else (side + 1) // 2
        rows += [(side, c_in, c_out, 1, 1) for c_out in (c1, r3, r33, proj) if c_out]
        rows += [(last, r3, c3, 3, 1), (side, r33, c33, 3, 1), (last, c33, c33, 3, 1)]
    return rows, [fc(1024, 1000 if paper else 10)]


TABLES = {
    "lenet at 32": lenet_table(1),
    "lenet5 at 32": lenet5_table(1),
    "alexnet at 224": alexnet_table(True),
    "alexnet at 227": alexnet_table(True),
    "alexnet_torchvision at 224": alexnet_table(True, towers=1),
    "zfnet at 224": zfnet_table(True),
    "nin at 32": nin_table(False),
    "nin at 224": nin_table(True),
    "googlenet at 224": googlenet_table(True),
    "googlenet_torchvision at 224": googlenet_table(True, kernel5=3),
    "inception_v2 at 224": inception_v2_table(True),
    **{f"vgg{depth}{bn} at 224": vgg_table(depth, True) for depth in (11, 13, 16, 19) for bn in ("", "_bn")},
    "lenet": lenet_table(3),
    "lenet5": lenet5_table(3),
    "alexnet": alexnet_table(False),
    "alexnet_torchvision": alexnet_table(False, towers=1),
    "zfnet": zfnet_table(False),
    "nin": nin_table(False),
    "googlenet": googlenet_table(False),
    "googlenet_torchvision": googlenet_table(False, kernel5=3),
    "inception_v2": inception_v2_table(False),
    **{f"vgg{depth}": vgg_table(depth, False) for depth in (11, 13, 16, 19)},
}


ALWAYS_BATCH_NORM = ("googlenet_torchvision", "inception_v2")


def summed(name: str) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a table; with batch norm, convolutions have its two instead of a bias."""
    convolutions, rest = TABLES[name] if name in TABLES else TABLES[name.removesuffix("_bn")]
    weights = [k * k * c_in // groups * c_out for _, c_in, c_out, k, groups in convolutions + rest]
    macs = sum(side * side * n for (side, *_), n in zip(convolutions + rest, weights, strict=True))
    a_channel = 2 if "_bn" in name or name.split(" ")[0] in ALWAYS_BATCH_NORM else 1
    extra = a_channel * sum(row[2] for row in convolutions) + sum(row[2] for row in rest)
    return sum(weights) + extra, macs
