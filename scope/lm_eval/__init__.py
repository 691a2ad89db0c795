"""The evaluator lm-evaluation-harness on our models: `python -m scope.lm_eval run --model scope ...`."""
