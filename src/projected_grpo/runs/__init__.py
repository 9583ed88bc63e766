"""What surrounds the loop: directories, sessions, teachers, processes, sweeps."""
