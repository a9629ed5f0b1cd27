"""Hand the build to pbr, which reads setup.cfg."""

import setuptools

setuptools.setup(setup_requires=["pbr"], pbr=True)
