"""The version of the distribution; the only place that says it. To look it up among what is installed takes 10 ms."""

VERSION = "0.1.0"
