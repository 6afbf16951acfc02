//! Registration of the extension module; nothing else lives here.

mod gateway;
mod redaction;

/// The extension module `trunkline._core`.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use super::gateway::{Gateway, check_config, known_providers};
    #[pymodule_export]
    use super::redaction::{Redactor, detectors};
}
