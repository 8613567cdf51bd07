//! The switch for planted bugs: a constant `false` unless the simulator asks for them.

#[cfg(feature = "planted")]
macro_rules! planted {
    ($engine:expr, $bug:ident) => {
        $engine.planted == Some(crate::engine::Planted::$bug)
    };
}

#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($engine:expr, $bug:ident) => {
        false
    };
}
