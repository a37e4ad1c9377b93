//! WebDAV servers as targets.
