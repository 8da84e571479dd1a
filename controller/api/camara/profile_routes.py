"""/qos-profiles/v1: the QoS profiles that sessions and bookings can name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from controller.api.camara.bodies import RetrieveProfiles
from controller.api.camara.context import Camara, error_responses
from controller.api.camara.mapping import host_of
from controller.api.camara.profiles import QosProfile
from controller.api.routes.dependencies import Reader
from controller.api.schemas.patterns import QOS_PROFILE
from controller.errors import NotFound


def profile_routes(camara: Camara) -> APIRouter:
    """The routes of QoS Profiles."""
    router = APIRouter(tags=["QoS Profiles"])
    offer = camara.offer

    @router.post("/retrieve-qos-profiles", response_model_exclude_none=True,
                 responses=error_responses(400, 404, 413, 422))
    async def retrieve_profiles(_: Reader, body: RetrieveProfiles) -> list[QosProfile]:
        """The profiles that match; all are offered to every device."""
        if body.device is not None:
            host_of(offer.network, body.device)
        return [
            profile.public for profile in offer.profiles
            if body.name in (None, profile.name) and body.status in (None, profile.status)
        ]

    @router.get("/qos-profiles/{name}", response_model_exclude_none=True, responses=error_responses(400, 404))
    async def get_profile(
        _: Reader, name: Annotated[str, Path(min_length=3, max_length=256, pattern=QOS_PROFILE, examples=["QOS_M"])]
    ) -> QosProfile:
        """A profile."""
        profile = offer.profile(name)
        if profile is None:
            raise NotFound(f"There is no QoS profile {name}.")
        return profile.public

    return router
