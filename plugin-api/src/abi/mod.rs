//! The binary interface; the only place where abi_stable types appear.
