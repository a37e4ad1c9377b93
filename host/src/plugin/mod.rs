//! Plugins: directories, inspection without loading, loading, registry.
