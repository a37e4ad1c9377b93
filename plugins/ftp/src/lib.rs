//! FTP and FTPS servers as targets.
