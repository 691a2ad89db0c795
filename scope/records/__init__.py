"""A run's folder: what was asked (config.yaml), what ran (manifest.json), and one line per sample (records.jsonl).

Records are appended in one write and synced. So a killed run loses at most the answers that were under way, and the
same command continues it. A run is recognised by its identity: a hash of everything that can change an answer.
"""

from scope.records.code import changed_code, code_of, listed, scorer_code
from scope.records.fields import fault_of_settings
from scope.records.folder import RecordKeeping, Records, read
from scope.records.identity import describe, identity, model_name, name_of
from scope.records.read import (
    CONFIG,
    MANIFEST,
    RECORDS,
    SHARDS,
    RecordsError,
    RunFiles,
    read_manifest,
    read_run,
    run_folders,
)
from scope.records.rewrite import rewrite
from scope.util.surroundings import mismatch, surroundings

__all__ = [
    "CONFIG",
    "MANIFEST",
    "RECORDS",
    "SHARDS",
    "RecordKeeping",
    "Records",
    "RecordsError",
    "RunFiles",
    "changed_code",
    "code_of",
    "describe",
    "fault_of_settings",
    "identity",
    "listed",
    "mismatch",
    "model_name",
    "name_of",
    "read",
    "read_manifest",
    "read_run",
    "rewrite",
    "run_folders",
    "scorer_code",
    "surroundings",
]
