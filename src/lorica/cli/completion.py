"""Tab completion of settings: `lorica train train.l<TAB>`."""


def complete_setting(incomplete: str) -> list[str]:
    """Settings that begin with what was typed, with their `=`."""
    from lorica.config import LEAVES

    return [f"{key}=" for key in LEAVES if key.startswith(incomplete)]
