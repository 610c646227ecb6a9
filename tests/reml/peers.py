"""Models with several scale terms that metafor has fitted, and its numbers of them."""

import json
from pathlib import Path

import bayes_lsm as lsm

REFERENCE = Path(__file__).parents[1] / "reference"
PEERS = json.loads((REFERENCE / "multilevel.json").read_text())


def schools(year=False):
    return lsm.LocationScaleModel(
        "yi ~ I((year - 1990) / 10)" if year else "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 1"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
    )


def crimes(rho=0.6):
    return lsm.LocationScaleModel(
        "yi ~ 1",
        {"study": "~ 1", "id": "~ 1"},
        variance="vi",
        sampling_covariance=lsm.SamplingCovariance("study", rho=rho),
        data=lsm.load_dataset("assink2016"),
    )


def gums(correlation):
    return lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        correlation={"outcome | trial": correlation},
        sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
        variance="vi",
        data=lsm.load_dataset("berkey1998"),
    )
