//! Amazon S3 and compatible object storage as targets.
