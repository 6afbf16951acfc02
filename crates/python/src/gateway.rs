//! The gateway, as Python starts and stops it.

use pyo3::{
    exceptions::{PyOSError, PyRuntimeError, PyValueError},
    prelude::*,
};
use trunkline_gateway::{
    config::Config,
    logging, providers,
    server::{Server, Stop},
};

/// A gateway, bound to its address when it is made.
#[pyclass(frozen)]
pub struct Gateway {
    server: std::sync::Mutex<Option<Server>>,
    stop: Stop,
    port: u16,
}

#[pymethods]
impl Gateway {
    #[new]
    fn new(config: &str) -> PyResult<Self> {
        let config = Config::parse(config).map_err(PyValueError::new_err)?;
        logging::start();
        let server = Server::bind(config).map_err(PyOSError::new_err)?;
        let (stop, port) = (server.stopper(), server.address().port());
        Ok(Self { server: std::sync::Mutex::new(Some(server)), stop, port })
    }

    /// Serves until `stop`, then drains. The interpreter is released for as long.
    fn serve(&self, python: Python<'_>) -> PyResult<()> {
        let server = self.server.lock().ok().and_then(|mut server| server.take());
        let server = server.ok_or_else(|| PyRuntimeError::new_err("this gateway has been served already"))?;
        python.detach(|| server.serve()).map_err(|error| PyOSError::new_err(error.to_string()))
    }

    /// Begins the drain. May be called from any thread.
    fn stop(&self) {
        self.stop.stop();
    }

    /// The port it listens on.
    #[getter]
    fn port(&self) -> u16 {
        self.port
    }
}

/// The known providers as a JSON array of `{name, wire, family?, base_url, key_env?, default_model?, models, quirks}`.
#[pyfunction]
pub fn known_providers() -> PyResult<String> {
    let known = providers::known().map_err(|error| PyValueError::new_err(error.to_string()))?;
    serde_json::to_string(&known).map_err(|error| PyValueError::new_err(error.to_string()))
}
