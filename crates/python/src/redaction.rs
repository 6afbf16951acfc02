//! Redaction for what Python stores: the code that redacts recorded turns.

use pyo3::{exceptions::PyValueError, prelude::*};
use trunkline_gateway::redaction::{NAMES, Redaction};

/// What is looked for in texts, compiled.
#[pyclass(frozen)]
pub struct Redactor(Redaction);

#[pymethods]
impl Redactor {
    #[new]
    fn new(spec: &str) -> PyResult<Self> {
        Redaction::parse(spec).map(Self).map_err(PyValueError::new_err)
    }

    /// A text with marks in place of what is found in it.
    fn text(&self, python: Python<'_>, text: &str) -> String {
        python.detach(|| self.0.text(text).into_owned())
    }
}

/// The names of the detectors there are.
#[pyfunction]
pub fn detectors() -> Vec<&'static str> {
    NAMES.to_vec()
}
