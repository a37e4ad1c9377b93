//! The local databases: one catalog per target, one job database per job. SQLite.
