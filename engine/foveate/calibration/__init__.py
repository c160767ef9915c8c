"""Find the levels worth serving: search integer schedules, measure them, keep the best.

Start reading at :mod:`foveate.calibration.calibrate`, the order of events. Points (``point.py``)
come from families (``families.py``), are moved one count at a time (``moves.py``, ``search.py``)
under a predicted time (``cost.py``), measured (``bench.py``, ``quality.py``), each once
(``journal.py``), and the front of them (``front.py``) becomes the ladder and a report
(``report.py``).
"""
