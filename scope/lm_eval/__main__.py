"""lm-eval's own command, which knows the model `scope`: python -m scope.lm_eval run --model scope --model_args ..."""

import sys

from scope.cli.door import CONF
from scope.cli.explain import exit_code, told
from scope.util.errors import BugError, ConfigError, ScopeError, print_anything

MODEL = "scope.lm_eval.model:ScopeLM"  # as in pyproject.toml, for releases of lm-eval that read it there


def main() -> int:
    """-> the exit code: 0 done, 1 failed on the way, 2 refused. An error of lm-eval's own goes on as it is."""
    print_anything()
    try:
        _run()
    except (ScopeError, BugError) as error:
        print(told(error, CONF, sys.argv[1:]), file=sys.stderr)
        return exit_code(error)
    return 0


def _run() -> None:
    try:
        import lm_eval.models  # noqa: F401  # fills the registry, which takes ours beside its own
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name}: is not installed: pip install 'scope-kv[lm-eval]'") from error
    if "scope" not in model_registry:
        model_registry.register("scope", target=MODEL)
    cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())
