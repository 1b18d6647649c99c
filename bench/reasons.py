"""Why a target is missed, in a few words, by its first column in RESULTS.md; shown only beside one that is missed."""

REASONS: dict[str, str] = {}
