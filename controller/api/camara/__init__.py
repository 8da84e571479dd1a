"""The APIs of CAMARA over the same service: Quality on Demand 1.1, QoS Profiles 1.1 and QoS Booking 0.1."""
