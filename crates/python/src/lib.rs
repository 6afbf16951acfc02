//! Registration of the extension module; nothing else lives here.

mod gateway;

/// The extension module `trunkline._core`.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use super::gateway::{Gateway, check_config, known_providers};
}
