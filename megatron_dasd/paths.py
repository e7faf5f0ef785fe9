"""Names of files that other files give: they stay inside the folder that they are given for."""

from pathlib import Path

from megatron_dasd.errors import UserError


def is_plain_name(name: str) -> bool:
    """Whether a name can only be that of a file or folder right inside another one."""
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & {"/", "\\"}


def inside(folder: Path, name: str) -> Path:
    """A file of a folder that really lies there, or in the hub's cache that the folder is part of.

    Raises:
        UserError: no such file, or a link that leads elsewhere.
    """
    path = folder / name
    if "\0" in name or not path.is_file():
        raise UserError(f"{path}: no such file; safetensors weights and their config are needed")
    home, real = folder.resolve(), path.resolve()
    roots = [home]
    if home.parent.name == "snapshots":  # the hub's cache links a snapshot's files to its blobs
        roots.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(root) for root in roots):
        raise UserError(f"{path}: is a link out of the folder; put the file itself there")
    return path


def check_links(folder: Path, suffixes: tuple[str, ...]) -> None:
    """Check that a folder's files with some suffixes really lie there.

    Raises:
        UserError: one is a link that leads elsewhere.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in suffixes and path.is_file():
            inside(folder, path.name)
