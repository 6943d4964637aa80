"""Who may capture what, and how much: peers, rules, quotas, and the audit log of what was decided."""
