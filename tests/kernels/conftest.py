"""Triton chooses its interpreter when imported, so the tests in interpreted/ need a process of their own.

``test_triton_interpreter.py`` starts it; here they are collected only where TRITON_INTERPRET is set.
"""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
