#!/usr/bin/env python3
"""Install this checkout beside the torch, Transformer Engine and apex that are there.

Usage: install.py [--dry-run]

What an image was built with is pinned, also where it calls itself a pre-release, which pip would
replace to satisfy a requirement of a release.  At the end the versions have to be as before.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

from packaging.requirements import Requirement

KEPT = re.compile(r"^(torch|torchvision|torchaudio|triton|pytorch.triton|transformer.engine.*|apex|"
                  r"flash.attn.*|nvidia.*|cuda.*)$")  # fmt: skip
"""Names of what belongs to the image."""
EXTRAS = ("dali", "mpi", "wandb")
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Install; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print what would be installed")
    dry_run = parser.parse_args().dry_run
    kept = image_packages()
    if not dry_run:
        pip("install", "--no-deps", "--no-build-isolation", str(ROOT))
        pip("install", "--no-deps", "megatron-core>=0.19.2,<0.20")
    wanted = requirements("megatron_dasd", EXTRAS, kept) + requirements("megatron-core", (), kept)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write("".join(f"{name}=={found}\n" for name, found in sorted(kept.items())))
        pins.flush()
        command = ["install", "--constraint", pins.name, *sorted(set(wanted))]
        if dry_run:
            print("kept:", *(f"{name}=={found}" for name, found in sorted(kept.items())))
            print("pip", *command)
            return 0
        pip(*command)
    after = image_packages()
    changed = [
        f"{name} {kept[name]} -> {after.get(name)}"
        for name in kept
        if kept[name] != after.get(name)
    ]
    if changed:
        print(f"error: the image's packages have changed: {', '.join(changed)}", file=sys.stderr)
        return 1
    return 0


def image_packages() -> dict[str, str]:
    """Versions of what belongs to the image, by normalised name."""
    found = {normalised(d.metadata["Name"]): d.version for d in distributions()}
    return {name: number for name, number in found.items() if KEPT.match(name)}


def requirements(package: str, extras: tuple[str, ...], kept: dict[str, str]) -> list[str]:
    """What a package wants beside what is kept; of an installed package."""
    try:
        version(package)
    except PackageNotFoundError:
        return []
    found = []
    for line in requires(package) or []:
        wanted = Requirement(line)
        applies = wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in (*extras, "")
        )
        if applies and normalised(wanted.name) not in kept:
            found.append(f"{wanted.name}{wanted.specifier}")
    return found


def normalised(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*arguments: str) -> None:
    """Run pip."""
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
