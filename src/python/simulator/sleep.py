"""How long an engine takes to fall asleep and to wake up, by sleep level.  Pure values.

Asleep at level 0 an engine only schedules nothing; at level 1 its weights lie in the host's memory
and its KV cache is gone, at level 2 both are gone.  Requests that it holds are aborted
(vllm/v1/engine/core.py, `sleep` with its default mode).

Measured with vLLM 0.26.0 and an 8B model on one H200 (tests/golden/h200_vllm_0.26.0, sleep.json).
"""

# Seconds to fall asleep (but for the first time at level 1: 6.8) and to wake up again.
SLEEP_S = {0: 0.0, 1: 0.35, 2: 0.07}
WAKE_S = {0: 0.0, 1: 0.87, 2: 0.63}
