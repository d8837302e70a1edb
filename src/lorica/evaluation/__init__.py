"""Did it get better? Scores, generated answers, task metrics, intervals and forgetting, before and after a run.

    scores, generation  ->  metrics, forgetting  ->  evaluation (one side)  ->  report (both)  ->  terminal, page

The last two need no torch: `lorica report` shows a finished run at once.
"""
