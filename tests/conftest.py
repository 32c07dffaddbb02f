"""Settings for all tests."""

from hypothesis import HealthCheck, settings

# No verdict depends on time: the machine may be busy.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
