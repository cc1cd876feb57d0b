"""The node agent: enrols the pods that its KSMNode selects, tunes ksmd, gives everything back.

One main loop decides and touches the machine; threads only bring news (API watches, cgroups).
The decisions themselves are pure: :mod:`.placement`, :mod:`.selection`, :mod:`.ksmd` and
:mod:`.status` take values and a clock and know neither the kernel nor the API server.
"""
