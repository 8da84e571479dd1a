"""Authentication, authorization, quotas, audit log and TLS."""
