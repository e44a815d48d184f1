"""Programs that produce every figure quoted in this project; each is one command and writes JSON."""
