"""What `cogvideo-edit up` starts and sets up on one machine: Prefect's server, PostgreSQL, a worker, the gallery."""
