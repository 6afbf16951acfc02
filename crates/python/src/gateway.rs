//! The gateway, as Python starts and stops it.

use std::sync::{Arc, Mutex, Weak};

use pyo3::{
    exceptions::{PyOSError, PyRuntimeError, PyValueError},
    prelude::*,
};
use trunkline_gateway::{
    config::Config,
    gateway, logging,
    metrics::Metrics,
    providers,
    routing::Routes,
    server::{Server, Stop},
};

/// A gateway, bound to its address when it is made.
#[pyclass(frozen)]
pub struct Gateway {
    server: Mutex<Option<Server>>,
    /// Not kept alive from here: what has served ends with its last call, and takes its empty spool with it.
    shared: Weak<gateway::Gateway>,
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
        let (shared, stop, port) = (Arc::downgrade(server.gateway()), server.stopper(), server.address().port());
        Ok(Self { server: Mutex::new(Some(server)), shared, stop, port })
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

    /// Takes on another configuration, from the next call on; all of it or nothing.
    fn reload(&self, python: Python<'_>, config: &str) -> PyResult<()> {
        let config = Config::parse(config).map_err(PyValueError::new_err)?;
        let shared = self.shared.upgrade().ok_or_else(|| PyRuntimeError::new_err("this gateway has ended"))?;
        python.detach(|| shared.reload(config)).map_err(PyValueError::new_err)
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

/// Whether a gateway could take on a configuration: an error that names what is wrong with it.
#[pyfunction]
pub fn check_config(config: &str) -> PyResult<()> {
    let config = Config::parse(config).map_err(PyValueError::new_err)?;
    Metrics::new().and_then(|metrics| Routes::new(&config, None, &metrics)).map(drop).map_err(PyValueError::new_err)
}
