//! Network shares (SMB) as targets.
