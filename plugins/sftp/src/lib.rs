//! SFTP servers as targets.
