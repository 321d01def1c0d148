"""What a model holds: measured, compared with what was asked for, and searched for mistakes."""
