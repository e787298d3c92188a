"""`python -m edgehybrid.engine`: the process that NVIDIA's libraries may crash, started by `build`."""

from edgehybrid.engine.child import main

main()
