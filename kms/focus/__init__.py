"""Focus SDK: has tickets resolved, verifies callers, hands out group keys; holds the focus's keys."""
