//! The two ends of the gateway benchmark: `bin/upstream` answers, `bin/load` asks.
//!
//! Both speak HTTP/1.1 by hand over one thread each, so that what stands between them is what is measured. They share
//! [`http1`], which finds where a message ends.

pub mod http1;
