"""Flags of a run: resolved against the competition's defaults, saved beside the checkpoints, compared on a restart."""

import json
from argparse import Namespace
from pathlib import Path

from common.errors import UserError, some
from common.files import atomic

# These may change between two starts of the same run: they say where, how fast and how long. (More epochs stretch the
# schedules that go by their number.) What the tables hold must stay, wherever they are.
MAY_CHANGE = {
    "gpu_id", "workers", "epochs", "result_dir", "img_path", "folds_dir", "save_minutes", "resetscale",
    "metadata", "root_dir", "compile", "fused", "cache_dir", "crop_dir", "soft_labels", "pseudo_labels", "labelmask",
    "external", "external_groups",
}  # fmt: skip
TABLES, SAMPLES = "digests of the tables", "digest of the samples"
STARTS = {"--resume", "--pretrained"}  # files that only the start of a run needs: they may be gone since


def resolve(args: Namespace, defaults: dict) -> None:
    """Fill the flags that were not given (None) with the competition's published ones, in place."""
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def claim_folder(folder: Path, settings: dict, tables: dict[str, str]) -> None:
    """Save `settings` in a run's folder, with the digests of the tables that it learns from by flag; UserError names
    what differs when checkpoints of other settings or tables are there.
    """
    path = folder / "settings.json"
    if path.exists() and any(folder.glob("*.pth")):
        before = read_settings(path)
        # A flag that is newer than the run counts as what it does when it is off: nothing.
        off = {name: value for name, value in settings.items() if not value}
        before = off | before
        changed = [name for name in settings if name not in MAY_CHANGE and before.get(name) != settings[name]]
        if changed:
            text = some([f"--{name} {before.get(name)} -> {settings[name]}" for name in changed], 6)
            raise UserError(f"{folder} holds a run with other settings ({text}); choose another --out_dir or remove it")
        known = before.get(TABLES, {})
        compared = ({*known, *tables} - STARTS) | (known.keys() & tables & STARTS) if known else ()
        changed = [flag for flag in sorted(compared) if known.get(flag) != tables.get(flag)]
        if changed:
            raise UserError(
                f"{folder} holds a run that learned from other files: what {some(changed)} names has changed since; "
                "choose another --out_dir or remove it"
            )
    with atomic(path) as temporary:
        text = json.dumps(settings | {TABLES: tables}, indent=1, sort_keys=True)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_settings(path: Path) -> dict:
    """settings.json of a run."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable JSON: {error}; remove it to begin the run anew") from error
