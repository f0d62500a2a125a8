//! Paused clock, a provider that is a script: see the module.
