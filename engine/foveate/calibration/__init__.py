"""Find the levels worth serving: search integer schedules, measure them, keep the best.

Start reading at :mod:`foveate.calibration.calibrate`, which runs all steps. Points
(``candidate.py``) come from families (``families.py``); a search moves one count at a time
(``moves.py``, ``search.py``) within a predicted time (``cost.py``); each point is measured once
(``measurements.py``, ``quality.py``, ``journal.py``); and the front of the points (``front.py``)
becomes the ladder and a report (``report.py``).
"""
