//! Registration of the extension module; nothing else lives here.

mod gateway;

/// jemalloc: under many connections it keeps the resident memory of a long run flat where the system's allocator grows.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The extension module `trunkline._core`.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use super::gateway::{Gateway, known_providers};
}
