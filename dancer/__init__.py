"""SteadyDancer: network, registration, conditioning, guidance, sampling."""
