"""Opens compiled programs, pairs them with a target and decodes; needs no compiler, no torch, no Optuna."""
