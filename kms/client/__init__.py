"""Participant SDK: requests tickets, offers and answers calls; holds the participant's keys."""
