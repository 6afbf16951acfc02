//! Pure conversions between the wires that clients and providers speak. No I/O here.
