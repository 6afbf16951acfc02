//! Registration of the extension module; nothing else lives here.

#[pyo3::pymodule]
mod _core {}
